"""An app whose workers recognise duplicates through a shared cache."""

from __future__ import annotations

import os
import time
from typing import Any

from cachelib import MemcachedCache, RedisCache
from flask import Flask
from flask_caching import Cache

from flask_postal import Postal, tracking_received

app = Flask(__name__)
kind, port = os.environ["CACHE"].split(":")
cache: Any
if kind == "redis":
    cache = RedisCache("127.0.0.1", int(port))
elif kind == "memcached":
    cache = MemcachedCache([f"127.0.0.1:{port}"])
else:
    config = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_PORT": int(port)}
    cache = Cache(app, config={**config, "CACHE_REDIS_HOST": "127.0.0.1"})
app.config["POSTAL_DEDUPE_CACHE"] = cache
app.config["POSTAL_WEBHOOK_KEY"] = os.environ["WEBHOOK_KEY"]
app.register_blueprint(Postal(app).blueprint)


@tracking_received.connect
def receive(app: Flask, event: Any, **extra: Any) -> None:
    time.sleep(0.2)
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{os.getpid()} {event.event_id}\n")


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())
