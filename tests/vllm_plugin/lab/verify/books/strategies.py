"""Programs as hypothesis draws and shrinks them."""

from hypothesis import strategies as st

from agentcache.vllm_plugin.lab.verify import programs
from agentcache.vllm_plugin.lab.verify.books import worlds as drawing

submits = st.builds(
    programs.Submit,
    context=st.integers(0, drawing.CONTEXTS - 1),
    shape=st.sampled_from(programs.SHAPES),
    answer=st.integers(1, drawing.ANSWER_TOKENS),
    salt=st.sampled_from((None, None, "a")),
    urgency=st.integers(0, 3),
)
steps = st.builds(programs.Step, st.integers(1, 4))
evictions = st.builds(programs.Evict, st.sampled_from((0.2, 0.5, 0.8)), st.integers(0, 99))
disturbances = st.one_of(
    st.builds(programs.Abort, st.integers(0, 7)),
    st.builds(programs.Preempt, st.integers(0, 7)),
    st.builds(programs.Reset, st.booleans()),
    st.builds(programs.Budget, st.sampled_from(drawing.BUDGETS), st.sampled_from((0, 2, 4, 7))),
    st.just(programs.Drain()),
)
ops = st.lists(st.one_of(submits, submits, steps, evictions, disturbances), max_size=30)


@st.composite
def worlds(draw: st.DrawFn) -> drawing.World:
    depth = draw(st.sampled_from((2, 1, 3)))
    asynchronous = depth > 1 or draw(st.booleans())
    return drawing.World(
        depth,
        asynchronous=asynchronous,
        drafts=0 if asynchronous else draw(st.sampled_from((0, 2, 3))),
        order=draw(st.sampled_from(("priority", "fcfs"))),
        mode=draw(st.sampled_from(("fused", "sequential"))),
        policy=draw(st.sampled_from(drawing.POLICIES)),
        admission=draw(st.sampled_from(drawing.ADMISSIONS)),
        pool=draw(st.sampled_from(drawing.POOLS)),
        segments=draw(st.sampled_from((8, 2))),
        whole=draw(st.booleans()),
        host=draw(st.sampled_from((0, *drawing.HOSTS))),
    )


drawn = st.builds(lambda world, chosen: drawing.InWorld(tuple(chosen), world), worlds(), ops)
