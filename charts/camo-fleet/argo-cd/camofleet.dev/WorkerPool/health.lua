-- Health of a WorkerPool, for the key resource.customizations.health.camofleet.dev_WorkerPool of argocd-cm.
-- Argo CD does not call this for pools that are being deleted; it determines their health itself.
local conditions = {}
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  conditions[condition.type] = condition
end

local function is_true(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

local function health(status, type)
  return { status = status, message = conditions[type].reason .. ": " .. conditions[type].message }
end

-- Conditions of an older generation do not count, because the change may resolve what stalled.
if conditions.Ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not observed this generation of the spec yet" }
end
if is_true("Stalled") then
  return health("Degraded", "Stalled")
end
-- Like a Deployment, a pool progresses until its old runners are gone, although it is Ready during the rollout.
if is_true("Reconciling") then
  return health("Progressing", "Reconciling")
end
-- A pool with `replicas: 0` is healthy too, because its owner or an autoscaler chose that. Suspended would block sync
-- waves forever.
if is_true("Ready") then
  return health("Healthy", "Ready")
end
return health("Progressing", "Ready")
