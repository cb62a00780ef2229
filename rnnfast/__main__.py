"""`python -m rnnfast` is the `rnnfast` command."""

import sys

from rnnfast.cli import main

sys.exit(main())
