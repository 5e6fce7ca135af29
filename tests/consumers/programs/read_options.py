"""Answer what a program with the options of all libraries sees: {section: {option: value}}.

The test asks `read` with the arguments of any oslo.config program (--config-file, --config-dir).
"""

import contextlib
import copy

import keystonemiddleware.opts
import oslo_cache._opts
import oslo_db.options
import oslo_limit.opts
import oslo_messaging.opts
from dialogue import answer
from keystoneauth1 import loading
from oslo_config import cfg

PASSWORD = loading.get_auth_common_conf_options() + loading.get_auth_plugin_conf_options("password")
CLIENT = PASSWORD + loading.get_adapter_conf_options()
OPTIONS = [
    *oslo_db.options.list_opts(),
    *oslo_messaging.opts.list_opts(),
    *keystonemiddleware.opts.list_auth_token_opts(),
    *oslo_cache._opts.list_opts(),
    *oslo_limit.opts.list_opts(),
    ("keystone_authtoken", PASSWORD),
    ("oslo_limit", PASSWORD),
    # The first option is Nova's own.
    ("service_user", [cfg.BoolOpt("send_service_user_token"), *CLIENT]),
    ("neutron", CLIENT),
    ("cinder", CLIENT),
    # No library registers it: Cinder and others bring it.
    ("coordination", [cfg.StrOpt("backend_url")]),
]


def read(*arguments):
    conf = cfg.ConfigOpts()
    for group, options in OPTIONS:
        for option in map(copy.copy, options):
            option.required = False  # For `auth_url`, if a component lacks the section.
            # oslo.limit lists `username` three times, once for each plugin that has one.
            with contextlib.suppress(cfg.DuplicateOptError):
                conf.register_opt(option, group)
    conf(arguments, project="consumer", default_config_files=[], default_config_dirs=[])
    groups = [name for name in conf if isinstance(conf[name], conf.GroupAttr)]
    return {"DEFAULT": {"transport_url": conf.transport_url}} | {name: dict(conf[name].items()) for name in groups}


answer(read=read)
