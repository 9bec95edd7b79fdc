"""The guide's examples as printed (`examples.md`), and the modules made of them."""
