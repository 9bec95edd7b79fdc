// Runs as the shared worker of all tabs, around Dash's worker, which it loads. It tells the
// server which tabs it watches, when one has gone, and when one was looked at, in messages of
// its own over the socket that Dash's worker opens. `page.js` is its counterpart in the page,
// and says how one side knows that the other lives.
//
// The server puts a line before this text: `const DASH_WORKER = "<the URL of Dash's worker>"`.

const PING_INTERVAL = 3_000; // milliseconds
const PINGS_MISSED = 5; // then a page is taken for gone: it crashed, froze, or shows a dialog
const STAY_AWAY = 4001; // the close code at which Dash's worker does
const NO_VERDICT = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4000]; // codes that say: come back
const AWAY = 2_000; // milliseconds; what pages do when they are connected, they do at once

const tabs = new Map(); // rendererId: the tab, as long as it is here
const unreported = new Set(); // rendererIds that went while no socket was open
let socket = null;
let awayUntil = 0; // when an app that did not want us is asked again
let unwanted; // how it closed
let pinging = null;

self.WebSocket = class extends WebSocket {
  constructor(...details) {
    // Dash's worker does not stop its retry timer when a new tab makes it connect at once.
    if (socket?.readyState <= WebSocket.OPEN) return socket;
    if (Date.now() < awayUntil) {
      queueMicrotask(() => socket.dispatchEvent(new CloseEvent("close", unwanted)));
      return socket;
    }
    super(...details);
    socket = this;
    this.addEventListener("message", () => (this.heard = true), { once: true });
    this.addEventListener("close", stayAwayIfUnwanted);
    // Later, to come after Dash's listener: that one sends what has waited, which may be
    // requests of a tab that has gone since.
    queueMicrotask(() => this.addEventListener("open", reportAll));
  }
};

// The app closed a socket before a word was said: it does not want us. Dash's worker would come
// back after most codes, and after any at once for the callbacks that pages start again when
// they are connected; it would be let in and closed again, many times a second, without end.
function stayAwayIfUnwanted(event) {
  const { code, reason } = event;
  if (this.heard || NO_VERDICT.includes(code) || !event.isTrusted) return;
  event.stopImmediatePropagation();
  awayUntil = Date.now() + AWAY;
  unwanted = { code: STAY_AWAY, reason };
  this.dispatchEvent(new CloseEvent("close", unwanted));
}

function report(type, rendererId) {
  const open = socket?.readyState === WebSocket.OPEN;
  if (open) socket.send(JSON.stringify({ type, rendererId }));
  return open;
}

function reportAll() {
  for (const rendererId of tabs.keys()) report("tab_watched", rendererId);
  for (const rendererId of unreported) report("tab_gone", rendererId);
  unreported.clear();
}

function arrive(tab, rendererId, lock) {
  if (tabs.has(rendererId)) depart(tabs.get(rendererId)); // it comes again, by another port
  unreported.delete(rendererId);
  awayUntil = 0; // a new page may be wanted
  Object.assign(tab, { rendererId, lock });
  tabs.set(rendererId, tab);
  report("tab_watched", rendererId);
  if (lock) navigator.locks.request(lock, () => depart(tab));
  else pinging ??= setInterval(pingAll, PING_INTERVAL);
  ownLock.then((lock) => lock && tab.port.postMessage({ type: "dashws_lock", lock }));
}

function depart(tab) {
  const { port, rendererId } = tab;
  if (tabs.get(rendererId) !== tab) return;
  tab.gone = true;
  tabs.delete(rendererId);
  if (!report("tab_gone", rendererId)) unreported.add(rendererId);
  // Dash's worker forgets it too; but not its last one, when it would close the socket, and
  // have trouble with a tab that connects amid that.
  if (tabs.size) {
    port.dispatchEvent(new MessageEvent("message", { data: { type: "disconnect", rendererId } }));
  }
}

function pingAll() {
  for (const tab of tabs.values()) {
    if (tab.lock) continue;
    if (tab.unanswered++ === PINGS_MISSED) depart(tab);
    tab.port.postMessage({ type: tab.gone ? "dashws_gone" : "dashws_ping" });
  }
}

// This worker's own lock, held to its end: its name, or null.
const ownLock = new Promise((held) => {
  if (!navigator.locks) return held(null);
  const name = crypto.randomUUID();
  const holding = () => (held(name), new Promise(() => {}));
  navigator.locks.request(name, holding).catch(() => held(null));
});

self.addEventListener("connect", ({ ports: [port] }) => {
  const tab = { port, rendererId: null, lock: null, gone: false, unanswered: 0 };

  // Before Dash's own listener, which need not see what is not for it.
  port.addEventListener("message", (event) => {
    const { type, rendererId, watch } = event.data;
    switch (type) {
      case "connect":
        if (watch) arrive(tab, rendererId, watch.lock);
        return;
      case "disconnect":
        return;
      case "tab_visible":
        report(type, rendererId);
        return;
      case "dashws_pong":
        tab.unanswered = 0;
        break;
      case "dashws_gone":
        depart(tab);
        break;
      default:
        if (!tab.gone) return;
    }
    event.stopImmediatePropagation();
  });
});

try {
  importScripts(DASH_WORKER);
} catch (error) {
  close(); // the next page starts a new worker, not this one without Dash's part
  throw error;
}
