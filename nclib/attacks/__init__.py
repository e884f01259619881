"""Attacks: projected gradient descent, the worst of several, and advertorch's zoo."""
