"""`python -m w2vlab`."""

import sys

from w2vlab.cli.main import main

sys.exit(main())
