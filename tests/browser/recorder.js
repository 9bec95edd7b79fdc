// Runs in a page before any of its own scripts. Keeps what a look at the end would miss:
// every text that the watched elements took, every callback that went by HTTP, every
// worker and socket that the page opened, and why it lost its connection each time.
((watched) => {
  window.seen = Object.fromEntries(watched.map((selector) => [selector, []]));
  window.posted = [];
  window.opened = [];
  window.lost = [];

  const look = () => {
    for (const selector of watched) {
      const element = document.querySelector(selector);
      const texts = window.seen[selector];
      if (element && texts.at(-1) !== element.textContent) texts.push(element.textContent);
    }
  };
  new MutationObserver(look).observe(document, {
    subtree: true,
    childList: true,
    characterData: true,
  });

  const { fetch } = window;
  window.fetch = (url, options) => {
    if (String(url).includes("_dash-update-component")) {
      window.posted.push(JSON.parse(options.body).output);
    }
    return fetch(url, options);
  };

  const { log } = console;
  console.log = (...words) => {
    const lost = String(words[0]).match(/^\[Dash\] WebSocket disconnected: (.*)/);
    if (lost) window.lost.push(lost[1]);
    log(...words);
  };

  for (const name of ["SharedWorker", "WebSocket"]) {
    window[name] = class extends window[name] {
      constructor(...details) {
        super(...details);
        window.opened.push(`${name} ${details[0]}`);
      }
    };
  }
})(WATCHED);
