"""`python -m untorch` is `untorch`."""

import sys

from untorch.cli import main

sys.exit(main())
