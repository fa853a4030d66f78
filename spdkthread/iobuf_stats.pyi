__all__ = ["SIZES"]

SIZES: tuple[str, str]
