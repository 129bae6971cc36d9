"""`python -m pushforward` is the command `pushforward`."""

import sys

from pushforward.cli import main

sys.exit(main())
