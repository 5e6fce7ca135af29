"""Every request that devenv makes of the engine fails once, in each of five ways; nothing may be lost or left."""
