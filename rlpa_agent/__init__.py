"""Token-level PPO for dialogue policies, exact over many turns."""
