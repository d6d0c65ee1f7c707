-- Health of a BrowserSession, for the key resource.customizations.health.camofleet.dev_BrowserSession of argocd-cm.
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

-- Terminal conditions come first, because later changes of the spec do not affect them.
if is_true("Stalled") then
  return health("Degraded", "Stalled")
end
-- Finished without Stalled means that an idle timeout or lifetime expired as configured.
if is_true("Finished") then
  return health("Healthy", "Finished")
end

if conditions.Ready == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not observed this generation of the spec yet" }
end
if is_true("Ready") then
  return health("Healthy", "Ready")
end
-- The session waits or starts, or Ready is Unknown because its runner is unreachable. In that case the browser may be
-- alive, and the session becomes Ready or Stalled within minutes. Degraded would fail a sync because of a few seconds
-- without a response.
return health("Progressing", "Ready")
