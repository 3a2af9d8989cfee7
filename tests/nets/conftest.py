import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is first imported: no test reaches for the network
