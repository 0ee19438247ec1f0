"""Scripted models and users, which answer an app from a script in place of a model or a person.

```python
llm = ScriptedLLM(["Hello!", "Goodbye!"])
agent = llm.agent()                     # in place of create_openai_agent(...) or create_anthropic_agent(...)
client = llm.openai_client()            # or: OpenAI's own client, which reads the script as bytes of responses
...
assert llm.last_call.text == "The last message of the app"
llm.assert_complete()
```

`miniagents_testing._provider_server` serves a script over a socket.
"""

from miniagents_testing._scripted.agents import ScriptedLLM, ScriptedUser, create_scripted_agent, create_scripted_user

__all__ = ["ScriptedLLM", "ScriptedUser", "create_scripted_agent", "create_scripted_user"]
