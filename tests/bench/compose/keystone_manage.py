#!/usr/bin/python3
"""The script that installing Keystone puts into the path; the image holds only its packages."""

import sys

from keystone.cmd.manage import main

sys.exit(main())
