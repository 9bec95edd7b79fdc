"""Web frameworks: accept a socket, hand it to the runtime. One module each."""
