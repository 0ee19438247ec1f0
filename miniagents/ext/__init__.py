"""Extensions: models, browsers, histories in Markdown and SQL, the console. Third-party packages load on first use."""
