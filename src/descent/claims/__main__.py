"""``python -m descent.claims ID …``: run these and keep what came out, a line for each when done.

What `descent.claims.run` starts several of.
"""

import sys

from . import _kept, get

chosen = [get(id) for id in sys.argv[1:]]
for claim in chosen:
    _kept.file(claim)  # the key is that of the code which this process has read
for claim in chosen:
    _kept.work(claim)
    print(claim.id, flush=True)
