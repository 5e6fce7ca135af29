"""Enforce a limit with oslo.limit. Arguments: project, resource, two claims, then those of any oslo.config program.

Prints for each of the claims whether it is within the limit.
"""

import json
import sys

from oslo_config import cfg
from oslo_limit import exception, limit, opts

project, resource, small, large, *arguments = sys.argv[1:]
cfg.CONF(arguments, project="consumer", default_config_files=[], default_config_dirs=[])
opts.register_opts(cfg.CONF)  # Once more: the options depend on auth_type.
enforcer = limit.Enforcer(lambda project_id, resources: dict.fromkeys(resources, 0))


def within(claim):
    try:
        enforcer.enforce(project, {resource: claim})
    except exception.ProjectOverLimit:
        return False
    return True


print(json.dumps([within(int(small)), within(int(large))]))
