"""What can go wrong, and what the API answers then. Workers raise the same classes; they travel by RPC."""


class InventoryError(Exception):
    status = 500


class ItemNotFound(InventoryError):
    status = 404


class ItemExists(InventoryError):
    status = 409


class NotEnough(InventoryError):
    status = 409
