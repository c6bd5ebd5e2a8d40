"""What llama.cpp makes of our file, as JSON: tokens of texts, greedy continuations of ids, rendered chats.

usage: gguf_llama.py FILE.gguf QUESTIONS.json; questions: {texts, prompts, chats, max_new_tokens}
"""

import json
import sys
import urllib.request

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 8192
params.n_parallel = 1
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.warmup = False
params.use_jinja = True
params.port = 0
server = xllamacpp.Server(params)
address = server.listening_address


def ask(path, body):
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


questions = json.load(open(sys.argv[2], encoding="utf-8"))
tokens = [ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"] for text in questions["texts"]]
answers = []
for ids in questions["prompts"]:
    body = {"prompt": ids, "n_predict": questions["max_new_tokens"], "temperature": 0.0}
    answers.append(ask("/completion", body | {"return_tokens": True, "cache_prompt": False})["tokens"])
# llama.cpp sets enable_thinking to false by itself, where the template of minimind2 then closes a think block.
thinking = {"enable_thinking": True}
rendered = [ask("/apply-template", {"messages": chat, "chat_template_kwargs": thinking})["prompt"] for chat in questions["chats"]]
json.dump({"tokens": tokens, "answers": answers, "rendered": rendered}, sys.stdout)
