"""Write to or read from [cache]. Arguments: key, value (none to read), then those of any oslo.config program."""

import json
import sys

import oslo_cache
from oslo_cache import core
from oslo_config import cfg

key, value, *arguments = sys.argv[1:]
conf = cfg.ConfigOpts()
oslo_cache.configure(conf)
conf(arguments, project="consumer", default_config_files=[], default_config_dirs=[])
region = core.create_region()
core.configure_cache_region(conf, region)
if value:
    region.set(key, value)
found = region.get(key)
print(json.dumps(None if found is core.NO_VALUE else found))
