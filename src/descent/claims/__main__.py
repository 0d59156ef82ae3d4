"""``python -m descent.claims ID …``: run these and keep what came out, a line for each when done.

What `descent.claims.run` starts several of.
"""

import sys

from . import _kept, get

for id in sys.argv[1:]:
    _kept.work(get(id))
    print(id, flush=True)
