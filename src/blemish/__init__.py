"""Find what is wrong in pictures of things that should all look alike.

model = blemish.fit("parts/good")
result = model.inspect("new.png")
print(result.score, result.verdict)
model.save("parts.blemish")
model = blemish.load("parts.blemish")
"""

import os
from importlib.metadata import version

# Torch's threads wait for one another after every operation, by default in a busy loop. Where anything else
# runs, even our own painting of defects, that was measured to make training up to six times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from blemish.api import fit, load
from blemish.errors import BlemishError
from blemish.model import Inspector, Region, Result, Verdict

__version__ = version("blemish")
__all__ = ["BlemishError", "Inspector", "Region", "Result", "Verdict", "fit", "load"]
