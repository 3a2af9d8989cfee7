"""Every error that a user can meet.

    BlemishError
    ├── UsageError             exit 2   an option, argument or call that cannot work
    │   ├── MissingExtraError           a feature whose optional packages are not installed
    │   ├── BudgetError                 what was asked for does not fit the stated memory or time
    │   └── OutputError                 the place to write to is missing, read-only or full
    ├── DataError              exit 3   pictures or lists that cannot be used
    │   ├── LayoutError                 a folder or list whose arrangement is not understood
    │   ├── ImageError                  one picture that cannot be read
    │   ├── PixelFormatError            one picture of another bit depth or channel count than the model's
    │   └── MaskError                   one mask that does not fit its picture
    └── ModelFileError         exit 4   a .blemish file that cannot be trusted or used
        ├── SchemaError                 written by a newer blemish
        └── ParityError                 the exported graph disagrees with the trained model

Each message is a sentence that names the thing and says what to do about it.
"""

from typing import ClassVar

__all__ = [
    "BlemishError",
    "BudgetError",
    "DataError",
    "ImageError",
    "LayoutError",
    "MaskError",
    "MissingExtraError",
    "ModelFileError",
    "OutputError",
    "ParityError",
    "PixelFormatError",
    "SchemaError",
    "UsageError",
]


class BlemishError(Exception):
    exit_code: ClassVar[int] = 2


class UsageError(BlemishError):
    exit_code = 2


class MissingExtraError(UsageError):
    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: install it with `pip install 'blemish[{extra}]'`.")


class BudgetError(UsageError):
    pass


class OutputError(UsageError):
    pass


class DataError(BlemishError):
    exit_code = 3


class LayoutError(DataError):
    pass


class ImageError(DataError):
    pass


class PixelFormatError(DataError):
    pass


class MaskError(DataError):
    pass


class ModelFileError(BlemishError):
    exit_code = 4


class SchemaError(ModelFileError):
    pass


class ParityError(ModelFileError):
    pass
