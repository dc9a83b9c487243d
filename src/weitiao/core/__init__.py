"""The ground: what every layer may use and what imports nothing of Weitiao itself."""
