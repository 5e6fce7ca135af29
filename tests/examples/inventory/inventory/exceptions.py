"""Errors, and the status that the API answers with. Workers raise the same classes, which travel by RPC."""


class InventoryError(Exception):
    status = 500


class ItemNotFound(InventoryError):
    status = 404


class ItemExists(InventoryError):
    status = 409


class NotEnough(InventoryError):
    status = 409
