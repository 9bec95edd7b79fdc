"""The gallery: one small live app per thing that WebSocket callbacks are good for.

`dashws demo` serves it. Each module of `examples/` is made to be copied from;
everything around them (the frame, the code panels, the style sheet) is here so
that they can stay short.
"""

import os

# numpy would start a thread for each core, which nothing here needs, and the gallery
# counts threads. Heard only before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
