// A browser keeps a page that was left, with its connection, in case of a way back.
// It does not keep one that listens for its own end.
addEventListener("unload", () => {});
