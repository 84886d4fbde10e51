"""The store on Redis or Valkey: one connection for commands, one for the feed, all changes by script."""

from evsession.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
