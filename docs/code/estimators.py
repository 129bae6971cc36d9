# --8<-- [start:density]
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

import pushforward as pf

wine = load_wine(as_frame=True).frame
train, test = train_test_split(wine.drop(columns="target"), random_state=0)
density = pf.estimators.FlowDensity(random_state=0, max_steps=300).fit(train)

print(f"{density.score(test):.2f} nats a row")
print({kind: round(weight, 2) for kind, weight in density.weights_.items()})
more = density.sample(1000, random_state=0)  # a DataFrame with the columns and types of train
# --8<-- [end:density]
print(more[["alcohol", "proline"]].head(3))

# --8<-- [start:outliers]
odd = test.head(3).assign(alcohol=[20.0, 13.0, 13.0], magnesium=[100.0, 400.0, 100.0])
detector = pf.estimators.FlowDensity(contamination=0.02, random_state=0, max_steps=50).fit(train)
print(detector.predict(odd), detector.decision_function(odd).round(1))
# --8<-- [end:outliers]

# --8<-- [start:conditional]
columns = ["alcohol", "color_intensity", "target"]
given_class = pf.estimators.FlowDensity(condition="y", ensemble=1, random_state=0, max_steps=100)
given_class.fit(train[columns[:2]], wine.target[train.index])
strong = given_class.sample(500, random_state=0, given=0)

given_columns = pf.estimators.FlowDensity(condition=["target", "alcohol"], categorical="target", ensemble=1, random_state=0)
given_columns.fit(wine[columns])
coloured = given_columns.sample(500, random_state=0, given={"target": 2, "alcohol": 13.0})
print(strong["alcohol"].mean().round(1), coloured["color_intensity"].mean().round(1))
# --8<-- [end:conditional]

# --8<-- [start:search]
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer

pipe = make_pipeline(PowerTransformer(), pf.estimators.FlowDensity(gaussians=False, ensemble=1, random_state=0, max_steps=60))
pipe.set_output(transform="pandas")
search = GridSearchCV(pipe, {"flowdensity__preset": ["maf", "realnvp"]}, cv=3).fit(train)
print(search.best_params_)
# --8<-- [end:search]

# --8<-- [start:sampler]
sampler = pf.estimators.FlowSampler("rectified_flow", condition="y", random_state=0, max_steps=300)
sampler.fit(train, wine.target[train.index])
rows = sampler.sample(200, random_state=0, given=1, sampler=pf.samplers.Heun(20))
# --8<-- [end:sampler]
print(rows["alcohol"].mean().round(1))

# --8<-- [start:missing]
holes = test.head(4).assign(proline=[None, 700.0, None, None])
filled = density.impute(holes, random_state=0)
# --8<-- [end:missing]
print("filled in:", filled["proline"].round().astype(int).tolist(), "were:", test["proline"].head(4).astype(int).tolist())
