"""Every setting of every process, in one frozen object read from FACTORY_* variables."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """What a process needs to know. Read once at its entry with `Settings()`, then passed down."""

    model_config = SettingsConfigDict(env_prefix="FACTORY_", frozen=True, extra="ignore")

    home: Path = Field(Path(".factory"), description="Folder for all state of this factory")
    database_url: str = Field("", description="Postgres, as postgresql+psycopg://…")
    broker_url: str = Field("", description="Celery broker: redis:// or amqp://")
    label_studio_url: str = Field("", description="Where reviewers work; empty: no review")
    label_studio_api_key: str = Field("", description="Label Studio token (legacy or personal)")
    label_studio_retry_seconds: float = Field(
        5, gt=0, description="First pause after calls to Label Studio failed; it doubles up to 24x"
    )
    webhook_secret: str = Field("", description="Bearer secret of Label Studio's webhook calls")
    secret_key: str = Field(
        default_factory=lambda: secrets.token_hex(32),
        description="Signs session cookies; set it when more than one web process runs",
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that models may be loaded from, separated by ':'"
    )
    model_hub_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hub ids that may be loaded at a pinned commit, separated by ','"
    )
    port: int = Field(0, ge=0, le=65535, description="Port of the web process; 0: a free one")
    host: str = Field("127.0.0.1", description="Address the web process listens on")
    url: str = Field("", description="Where the API is reached; default: the local stack's")
    token: str = Field("", description="API token of the CLI and client; default: the local one")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N: where models run")
    dtype: str = Field("auto", description="auto, float32 or bfloat16: the weights' type")
    slots: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        32, description="Rows that a worker decodes side by side; auto: as many as fit its memory"
    )
    cuda_graphs: bool = Field(
        True, description="Record decoding steps as CUDA graphs, where the model allows it"
    )
    embedding_model: str = Field(
        "all-MiniLM-L6-v2",
        description="'all-MiniLM-L6-v2' (built in) or the folder of a 384-dimension model",
    )
    lease_seconds: float = Field(85, ge=1, description="A shard unheard of for so long is freed")
    heartbeat_seconds: float = Field(10, gt=0, description="How often a lease is renewed")
    stall_seconds: float = Field(
        900, gt=0, description="A worker that makes no step of its work for so long is ended"
    )
    stop_seconds: float = Field(
        20, gt=0, description="A worker that was told to stop and still runs is ended after this"
    )
    commit_batch: int = Field(8, ge=1, le=1000, description="Samples in one commit")
    shard_attempts: int = Field(3, ge=1, description="Attempts before a shard is dead")
    outbox_retry_seconds: float = Field(30, gt=0, description="Wake-ups are sent again after this")
    reconcile_seconds: float = Field(60, gt=0, description="How often reviews are reconciled")
    retention_days: float = Field(
        30, gt=0, description="Answered requests and handled webhook events are kept so long"
    )
    request_wait_seconds: float = Field(20, ge=0, description="Wait for a worker before a 202")
    install_seconds: float = Field(
        0, ge=0, description="What installing took, for the demo's report; `make demo` sets it"
    )
    max_body_bytes: int = Field(64 * 1024 * 1024, description="Largest request body")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return tuple(Path(p) for p in value.split(":") if p) if isinstance(value, str) else value

    @field_validator("model_hub_ids", mode="before")
    @classmethod
    def _split_ids(cls, value: object) -> object:
        return tuple(p for p in value.split(",") if p) if isinstance(value, str) else value

    @property
    def models_dir(self) -> Path:
        """Where models trained here are kept; always an allowed root."""
        return self.home / "models"

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every folder that a model may be loaded from."""
        return (*self.model_roots, self.models_dir)


def load() -> Settings:
    """The settings of this process, from its environment."""
    return Settings()
