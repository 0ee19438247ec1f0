"""Extensions: language models, chat histories in Markdown, the console. Third-party packages load on first use."""
