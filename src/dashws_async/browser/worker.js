// Runs as the shared worker of all tabs, around Dash's worker, which it loads. It tells the
// server which tabs it watches, when one has gone, and when one was looked at, in messages of
// its own over the socket that Dash's worker opens. `page.js` is its counterpart in the page,
// and says how one side knows that the other lives.
//
// The server puts a line before this text: `const DASH_WORKER = "<the URL of Dash's worker>"`.

const PING_INTERVAL = 3_000; // milliseconds
const PINGS_MISSED = 5; // then a page is taken for gone: it crashed, froze, or shows a dialog

const tabs = new Map(); // rendererId: the tab, as long as it is here
const unreported = new Set(); // rendererIds that went while no socket was open
let socket = null;
let pinging = null;

self.WebSocket = class extends WebSocket {
  constructor(...details) {
    // Dash's worker does not stop its retry timer when a new tab makes it connect at once.
    if (socket?.readyState <= WebSocket.OPEN) return socket;
    super(...details);
    socket = this;
    // Later, to come after Dash's listener: that one sends what has waited, which may be
    // requests of a tab that has gone since.
    queueMicrotask(() => this.addEventListener("open", reportAll));
  }
};

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
