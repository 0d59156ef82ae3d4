"""What ``python tools/notebooks`` runs."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # the folder of the package, not its inside

from notebooks import main  # noqa: E402

sys.exit(main())
