"""What an agent is made of: Agent, Op, handles and artifacts."""
