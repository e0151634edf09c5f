"""Whether a cluster's job server accepts jobs from here: ``python -m blade_dist.nodes.job_server URL``."""

from __future__ import annotations

import sys

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient


def why_refused(url: str) -> str | None:
    """None where the job server at ``url`` answers and accepts this client's token; else one line with a fix."""
    try:
        JobSubmissionClient(url).list_jobs()
    except ConnectionError:
        return f"no Ray cluster answers at {url}: give its dashboard's address (--address), or open a tunnel to it"
    except AuthenticationError:
        return f"the cluster at {url} refuses the token: RAY_AUTH_TOKEN must be the cluster's"
    except RuntimeError as error:
        return f"{url}: {' '.join(str(error).split())[:200]}"
    return None


if __name__ == "__main__":
    sys.exit(why_refused(sys.argv[1]))
