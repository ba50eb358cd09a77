"""What clients use: `AgentCacheClient`, its synchronous twin, and the messages that they and engines exchange."""

from agentcache.api.client import AgentCacheClient, AsyncJob, Job, SyncAgentCacheClient

__all__ = ["AgentCacheClient", "AsyncJob", "Job", "SyncAgentCacheClient"]
