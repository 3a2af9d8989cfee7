"""Pixels in, pictures out: decoding, bit depth, resizing, overlays."""

from blemish.images.decode import IMAGE_SUFFIXES, as_image, mask_files, read, read_bytes, read_mask
from blemish.images.drawing import overlay, write_png
from blemish.images.pixels import PixelFormat, to_rgb8
from blemish.images.resizing import Image, resize, resize_mask

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "PixelFormat",
    "as_image",
    "mask_files",
    "overlay",
    "read",
    "read_bytes",
    "read_mask",
    "resize",
    "resize_mask",
    "to_rgb8",
    "write_png",
]
