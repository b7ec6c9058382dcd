"""`python -m smcp.stack` is `make up` without the installing."""

import sys

from smcp.stack.up import main

sys.exit(main())
