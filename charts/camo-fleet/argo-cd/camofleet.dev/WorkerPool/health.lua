-- Health of a WorkerPool, for the key resource.customizations.health.camofleet.dev_WorkerPool of argocd-cm.
-- One that is being deleted does not come here: Argo CD knows that by itself.
local conditions = {}
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

local function health(status, type)
  return { status = status, message = conditions[type].reason .. ": " .. conditions[type].message }
end

-- A change may well end what has stalled, so what stands there of an older spec does not count.
if conditions.Ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not answered this generation of the spec yet" }
end
if holds("Stalled") then
  return health("Degraded", "Stalled")
end
-- As with a Deployment, a rollout is not over while old runners are there, though the pool is Ready meanwhile.
if holds("Reconciling") then
  return health("Progressing", "Reconciling")
end
-- With `replicas: 0`, too: that is as wished, by its owner or an autoscaler. Suspended would hold up a sync in waves for good.
if holds("Ready") then
  return health("Healthy", "Ready")
end
return health("Progressing", "Ready")
