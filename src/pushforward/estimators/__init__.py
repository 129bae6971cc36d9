"""Models as estimators of other packages: of scikit-learn, in pipelines and searches, and of sbi."""

from pushforward.registry import namespace

namespace(__name__)
