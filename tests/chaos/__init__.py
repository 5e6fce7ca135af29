"""Let every request of devenv to the engine fail once, in each of five ways; nothing may be lost or left."""
