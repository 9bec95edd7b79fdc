"""The guide in a real browser: examples served by real processes, seen by Chromium."""
