"""What transformers makes of conversations, for comparison.

Argument: a folder with tokenizer.json, tokenizer_config.json and cases.json: a list of {template, messages, tools, kwargs,
add_generation_prompt, continue_final_message}. Prints a JSON list: {"text": ...} or {"error": ...} a case.
Arguments of tool calls that are JSON text are parsed first, as vLLM's server does before it renders."""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder)


def parsed(message):
    message = {key: value for key, value in message.items() if value is not None or key == "content"}
    for call in message.get("tool_calls") or []:
        given = call["function"].get("arguments")
        if isinstance(given, str):
            try:
                call["function"]["arguments"] = json.loads(given) if given else {}
            except ValueError:
                pass
        elif given is None:
            call["function"]["arguments"] = {}
    return message


out = []
for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
    try:
        text = tokenizer.apply_chat_template(
            [parsed(m) for m in case["messages"]], tools=case.get("tools"), chat_template=case["template"], tokenize=False,
            add_generation_prompt=case["add_generation_prompt"], continue_final_message=case["continue_final_message"],
            **case.get("kwargs", {}),
        )
        out.append({"text": text})
    except Exception as error:  # whatever the template or the library raises
        out.append({"error": str(error)})
print(json.dumps(out))
