"""Scripted models and users: what an app would ask a model, or a person, goes to a script instead.

```python
llm = ScriptedLLM(["Hello!", "Goodbye!"])
agent = llm.agent()                     # in place of create_openai_agent(...) or create_anthropic_agent(...)
client = llm.openai_client()            # or: OpenAI's own client, which reads the script as bytes from the wire
...
assert llm.last_call.text == "What the app said last"
llm.assert_complete()
```

`miniagents_testing._provider_server` puts a script behind a socket.
"""

from miniagents_testing._scripted.llm import ScriptedLLM, create_scripted_agent
from miniagents_testing._scripted.user import ScriptedUser, create_scripted_user

__all__ = ["ScriptedLLM", "ScriptedUser", "create_scripted_agent", "create_scripted_user"]
