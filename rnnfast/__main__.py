"""`python -m rnnfast` is the `rnnfast` command."""

import sys

from rnnfast.commands.main import main

sys.exit(main())
