// Runs in the page, before Dash's renderer; `worker.js` is its counterpart. It lets the shared
// worker know when this page has gone, and finds this page a new worker when the old one has.
//
// The renderer makes a SharedWorker and talks to its port. Here it gets a port of ours, which
// passes messages on to and from the worker's. The connection behind it can then begin anew:
// when the page comes back from the browser's back/forward cache; when the worker has died
// (it lives in the process of one of its tabs, and crashes with it); when the worker took this
// page for gone, as it did not answer. The renderer then hears that it was disconnected, and
// its first message, `connect`, is sent again. The rest is Dash's own: the page starts its
// persistent callbacks again.
//
// How one side knows that the other lives: each holds a Web Lock that the other has asked for
// too, and is given at the moment when the holder ends, however that happens. Without Web Locks
// (they need https, or localhost) the worker sends pings.
(() => {
  if (!window.SharedWorker) return;

  const SILENCE = 15_000; // milliseconds; a worker that pings does it far more often
  const scripts = new URL(".", document.currentScript.src).href;

  window.SharedWorker = new Proxy(window.SharedWorker, {
    construct(Native, [url, ...options]) {
      const ours = new URL(url, document.baseURI).href.startsWith(scripts);
      if (!ours) return new Native(url, ...options);
      return { port: lastingPort(() => new Native(url, ...options).port) };
    },
  });

  function lastingPort(openPort) {
    const { port1: renderers, port2: renderer } = new MessageChannel();
    let connect = null; // the renderer's first message
    let connected = false; // whether the renderer believes that it is
    let port = null; // the worker's, as long as this page is here
    let leaving; // called at the end of the page's stay
    let silence; // the timer of the pings

    async function join() {
      const opened = (port = openPort());
      opened.onmessage = ({ data }) => fromWorker(data, opened);
      const stay = new Promise((resolve) => (leaving = resolve));
      const lock = await hold(stay);
      opened.postMessage({ ...connect, watch: { lock } });
    }

    function leave() {
      port.postMessage({ type: "dashws_gone" });
      port.close();
      port = null;
      leaving();
      clearTimeout(silence);
    }

    function rejoin(reason) {
      if (port) leave();
      if (connected) renderer.postMessage({ type: "disconnected", payload: { reason } });
      connected = false;
      join();
    }

    function fromWorker(message, from) {
      switch (message.type) {
        case "dashws_lock":
          // Shared: all pages are given it at once, and none waits for one that sleeps.
          navigator.locks.request(message.lock, { mode: "shared" }, () => {
            if (port === from) rejoin("The worker has ended");
          });
          break;
        case "dashws_ping":
          from.postMessage({ type: "dashws_pong" });
          clearTimeout(silence);
          silence = setTimeout(rejoin, SILENCE, "The worker does not answer");
          break;
        case "dashws_gone":
          rejoin("The page did not answer");
          break;
        default:
          if (message.type === "connected") connected = true;
          if (message.type === "disconnected") connected = false;
          renderer.postMessage(message);
      }
    }

    renderer.onmessage = ({ data }) => {
      if (data.type === "connect") {
        connect = data;
        join();
      } else if (data.type === "disconnect") {
        connect = null;
        leave();
      } else {
        port?.postMessage(data);
      }
    };

    addEventListener("pagehide", () => port && leave());
    addEventListener("pageshow", ({ persisted }) => persisted && connect && rejoin("The page was away"));
    return renderers;
  }

  // Hold a lock until `end`. Resolves with its name as soon as it is held, or with null.
  function hold(end) {
    if (!navigator.locks) return null;
    const name = crypto.randomUUID();
    return new Promise((held) => {
      const holding = () => (held(name), end);
      navigator.locks.request(name, holding).catch(() => held(null)); // the browser's settings
    });
  }
})();
