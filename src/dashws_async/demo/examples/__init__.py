"""The examples, one module each: an `ABOUT`, and `create()` with the layout and the callbacks."""
