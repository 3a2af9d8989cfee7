"""Find what is wrong in pictures of things that should all look alike.

model = blemish.fit("parts/good")
result = model.inspect("new.png")
print(result.score, result.verdict)
model.save("parts.blemish")
model = blemish.load("parts.blemish")
"""

from importlib.metadata import version

from blemish.api import fit, load
from blemish.errors import BlemishError
from blemish.model import Inspector, Region, Result, Verdict

__version__ = version("blemish")
__all__ = ["BlemishError", "Inspector", "Region", "Result", "Verdict", "fit", "load"]
