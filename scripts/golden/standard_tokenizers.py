"""Golden values of src/data/tokenizer/standard.rs, from MiniMind's own tokenizer.json files.

usage: python standard_tokenizers.py FOLDER   (FOLDER/minimind2/tokenizer.json, FOLDER/minimind3/tokenizer.json)
"""

import hashlib
import sys
from pathlib import Path

from tokenizers import Tokenizer

TEXT = "<|im_start|>user\n你好，world! 1+1=2 안녕 🙂<|im_end|>\n"
for name in ("minimind2", "minimind3"):
    own = Tokenizer.from_file(str(Path(sys.argv[1]) / name / "tokenizer.json"))
    words = sorted(own.get_vocab().items(), key=lambda item: item[1])
    text = "".join(word + "\n" for word, _ in words)
    print(name, hashlib.sha256(text.encode()).hexdigest(), own.encode(TEXT, add_special_tokens=False).ids)
