"""What ``python tools/course`` runs."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # the folder of the package, not its inside

from course.command import main  # noqa: E402

sys.exit(main())
