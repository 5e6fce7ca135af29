"""Write what programs read: files under .devenv/, the project's own configs, exports."""
